package org.edgehadanorm.demo;

import android.content.Context;
import android.util.AttributeSet;
import android.widget.ImageView;

/** An image as wide as it may be, and as high as its picture's proportions ask, within what there is. */
public final class PictureView extends ImageView {
    private int pictureWidth = 1;
    private int pictureHeight = 1;

    public PictureView(Context context, AttributeSet attributes) {
        super(context, attributes);
    }

    /** Makes room for pictures of this size; square until it is called. */
    void setProportions(int width, int height) {
        if (width * pictureHeight != height * pictureWidth) {
            pictureWidth = width;
            pictureHeight = height;
            requestLayout();
        }
    }

    @Override
    protected void onMeasure(int widthSpec, int heightSpec) {
        int width = MeasureSpec.getSize(widthSpec);
        int height = (int) ((long) width * pictureHeight / pictureWidth);
        if (MeasureSpec.getMode(heightSpec) != MeasureSpec.UNSPECIFIED && height > MeasureSpec.getSize(heightSpec)) {
            height = MeasureSpec.getSize(heightSpec);
            width = (int) ((long) height * pictureWidth / pictureHeight);
        }
        setMeasuredDimension(width, height);
    }
}
