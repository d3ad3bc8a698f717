package org.edgehadanorm.demo;

import android.app.Activity;
import android.view.View;
import android.widget.SeekBar;
import android.widget.TextView;
import java.util.Optional;

import org.edgehadanorm.core.Picture;
import org.edgehadanorm.core.Plan;
import org.edgehadanorm.core.Request;

/** What a picture begins with: one that is picked, a mask of what is drawn anew, and how much of it is. */
final class OriginalForm {
    /** Of the slider, whose least place is the strength LEAST / PARTS. */
    private static final double PARTS = 20;
    private static final int LEAST = 2;

    private final Activity activity;
    private final TextView refusal;
    private final View pick;
    private final View details;
    private final View maskPick;
    private final View maskDetails;
    private final TextView label;
    private final SeekBar slider;
    private final Thumbnail picture;
    private final Thumbnail mask;
    private final View[] changes;
    private final Runnable changed;
    private OriginalContent content = new OriginalContent(State.FIRST);

    /** changed: is called when there is another picture or strength. */
    OriginalForm(Activity activity, Session session, Picker picker, Runnable changed) {
        this.activity = activity;
        this.changed = changed;
        refusal = (TextView) activity.findViewById(R.id.original_refusal);
        pick = activity.findViewById(R.id.original_pick);
        details = activity.findViewById(R.id.original_details);
        maskPick = activity.findViewById(R.id.mask_pick);
        maskDetails = activity.findViewById(R.id.mask_details);
        label = (TextView) activity.findViewById(R.id.strength_label);
        slider = (SeekBar) activity.findViewById(R.id.strength);
        picture = new Thumbnail((PictureView) activity.findViewById(R.id.original_picture));
        mask = new Thumbnail((PictureView) activity.findViewById(R.id.mask_picture));
        View remove = activity.findViewById(R.id.original_remove);
        View maskRemove = activity.findViewById(R.id.mask_remove);
        changes = new View[] {pick, remove, maskPick, maskRemove};
        pick.setOnClickListener(view -> picker.picture());
        remove.setOnClickListener(view -> session.beginWithNoise());
        maskPick.setOnClickListener(view -> picker.mask());
        maskRemove.setOnClickListener(view -> session.unmask());
        slider.setOnSeekBarChangeListener(new Slides(changed));
    }

    void show(State state) {
        boolean another = !state.original().equals(content.original());
        content = new OriginalContent(state);
        Fields.say(refusal, content.refusal());
        Fields.visible(refusal, content.refusal() != Phrase.NONE);
        Fields.visible(pick, content.asks());
        Fields.visible(details, content.picture().isPresent());
        Fields.visible(maskPick, !content.mask().isPresent());
        Fields.visible(maskDetails, content.mask().isPresent());
        for (View change : changes) {
            change.setEnabled(content.canChange());
        }
        picture.show(content.picture());
        mask.show(content.mask());
        if (another) {
            changed.run();
        }
    }

    /** Fits the words to the chosen steps; the steps that are taken of them. */
    Plan follow(Plan plan) {
        Phrase words = OriginalContent.strength(plan, strength());
        Fields.say(label, words);
        slider.setContentDescription(Fields.text(activity, words));
        return content.taken(plan, strength());
    }

    /** A request with what its picture begins with. */
    Request begun(Request request) {
        return content.original().map(original -> request.beginningWith(original, strength())).orElse(request);
    }

    private double strength() {
        return (slider.getProgress() + LEAST) / PARTS;
    }

    /** A small picture, which is made again only with another one. */
    private static final class Thumbnail {
        private final PictureView view;
        private Optional<Picture> shown = Optional.empty();

        Thumbnail(PictureView view) {
            this.view = view;
        }

        void show(Optional<Picture> now) {
            if (!now.equals(shown)) {
                now.ifPresent(pixels -> view.setProportions(pixels.width(), pixels.height()));
                view.setImageDrawable(
                        now.map(pixels -> Bitmaps.drawable(view.getResources(), pixels)).orElse(null));
                shown = now;
            }
        }
    }

    private static final class Slides implements SeekBar.OnSeekBarChangeListener {
        private final Runnable changed;

        Slides(Runnable changed) {
            this.changed = changed;
        }

        @Override
        public void onProgressChanged(SeekBar bar, int progress, boolean byPerson) {
            changed.run();
        }

        @Override
        public void onStartTrackingTouch(SeekBar bar) {
            // Every place is followed.
        }

        @Override
        public void onStopTrackingTouch(SeekBar bar) {
            // It was followed there.
        }
    }
}
