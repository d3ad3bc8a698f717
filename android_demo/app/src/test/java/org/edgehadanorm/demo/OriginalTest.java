package org.edgehadanorm.demo;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertSame;
import static org.junit.Assert.assertTrue;

import java.io.IOException;
import java.io.InputStream;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;

import org.edgehadanorm.core.Original;
import org.edgehadanorm.core.Phase;
import org.edgehadanorm.core.Picture;
import org.edgehadanorm.core.Plan;
import org.edgehadanorm.core.Request;
import org.junit.Before;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** Pictures that begin with a picked one: what the session keeps of it and what the form has. */
public final class OriginalTest {
    private static final Request CAT = new Request("cat", "", 7, "2", 1.5);
    private static final Picture RED = picture(0xFFFF0000);
    private static final Picture WHITE = picture(0xFFFFFFFF);

    @Rule
    public final TemporaryFolder folder = new TemporaryFolder();
    private final List<State> states = new ArrayList<>();
    private Session session;

    @Before
    public void start() {
        session = new Session(new BundleStore(folder.getRoot()), new NoAsset(),
                threads -> TinyBundle.loader(method -> { }), file -> RED,
                new PeakMemory(folder.getRoot()), Worker.prompt(), Runnable::run);
        session.observe(states::add);
    }

    @Test
    public void aPickedPictureIsCutToTheSizeOfTheBundleAndKept() {
        add(TinyBundle.ofBytes(1));
        assertTrue(content().asks());
        session.beginWith((width, height) -> {
            assertArrayEquals(new int[] {2, 2}, new int[] {width, height});
            assertFalse(content().canChange());
            assertTrue(new GenerateContent(last()).bar().isPresent());
            assertEquals(R.string.picking, new GenerateContent(last()).status().id());
            return RED;
        });
        assertTrue(last().is(State.Kind.DONE, State.Task.PICK));
        assertSame(RED, content().picture().get());
        assertFalse(content().asks() || content().mask().isPresent());
        assertTrue(content().canChange());
        List<State> others = new ArrayList<>();
        session.observe(others::add);  // as after the phone was turned
        assertSame(RED, new OriginalContent(others.get(0)).picture().get());
    }

    @Test
    public void aMaskIsOfThePictureAndGoesWithIt() {
        add(TinyBundle.ofBytes(1));
        session.mask((width, height) -> WHITE);
        assertFalse(last().original().isPresent());
        session.beginWith((width, height) -> RED);
        session.mask((width, height) -> WHITE);
        assertSame(WHITE, content().mask().get());
        session.unmask();
        assertFalse(content().mask().isPresent());
        assertSame(RED, content().picture().get());
        session.mask((width, height) -> WHITE);
        session.beginWithNoise();
        assertFalse(last().original().isPresent());
    }

    @Test
    public void anotherBundleHasAnotherSizeAndBeginsWithNoise() {
        add(TinyBundle.ofBytes(1));
        session.beginWith((width, height) -> RED);
        add(TinyBundle.ofBytes(2));
        assertFalse(last().original().isPresent());
    }

    @Test
    public void aFileThatIsNoPictureIsSaidAndLeavesTheOneBefore() {
        add(TinyBundle.ofBytes(1));
        session.beginWith((width, height) -> RED);
        session.beginWith((width, height) -> {
            throw new IOException("no picture");
        });
        assertTrue(last().is(State.Kind.FAILED, State.Task.PICK));
        assertEquals("no picture", last().message());
        assertSame(RED, content().picture().get());
        session.beginWith((width, height) -> {
            session.cancel();
            return WHITE;
        });
        assertTrue(last().is(State.Kind.IDLE, State.Task.PICK));
        assertSame(RED, content().picture().get());
    }

    @Test
    public void aPictureThatBeginsWithAnotherTakesItsShareOfTheSteps() {
        add(TinyBundle.ofBytes(1));
        session.beginWith((width, height) -> RED);
        session.draw(CAT.beginningWith(last().original().get(), 0.5));
        assertEquals(1, last().drawing().get().steps());
        assertTrue(last().message(), last().drawing().get().isFinished());
        session.draw(CAT);
        assertEquals(2, last().drawing().get().steps());
    }

    @Test
    public void whatTheMaskKeepsIsThePicture() {
        add(TinyBundle.ofBytes(1));
        Picture mask = new Picture(2, 2, new int[] {0, 0xFFFFFFFF, 0, 0});
        session.draw(CAT.beginningWith(new Original(RED, Optional.of(mask)), 1));
        int[] drawn = last().drawing().get().picture().get().argb();
        for (int kept : new int[] {0, 2, 3}) {
            assertEquals(0xFFFF0000, drawn[kept]);
        }
        assertTrue(drawn[1] != 0xFFFF0000);
    }

    @Test
    public void theStrengthSaysHowManyStepsAreTakenOrThatNoneCan() {
        add(TinyBundle.ofBytes(1));
        said(strength("2", 0.6), R.string.strength_of, 0.6, 2, 2);
        said(strength("2", 0.5), R.string.strength_of, 0.5, 1, 2);
        said(strength("without", 0.5), R.string.strength_of_no_steps, 0.5);
        Plan plan = plan("2");
        assertSame(plan, content().taken(plan, 0.5));
        session.beginWith((width, height) -> RED);
        assertEquals(1, content().taken(plan, 0.5).steps());
        assertSame(plan("without"), content().taken(plan("without"), 0.5));
        session.draw(new Request("cat", "", 7, "without", 1.5).beginningWith(last().original().get(), 0.5));
        assertEquals("no picture can begin a plan at step 1 of 2: take other steps or another strength",
                last().message());
    }

    @Test
    public void aBundleWithoutAnImageEncoderSaysSo() {
        assertSame(Phrase.NONE, content().refusal());
        assertFalse(content().asks() || content().canChange());
        add(TinyBundle.ofBytes(1));
        assertSame(Phrase.NONE, content().refusal());
        add(TinyBundle.withDecoder());
        said(content().refusal(), R.string.original_of_no_encoder);
        assertFalse(content().asks());
        session.draw(CAT.beginningWith(new Original(RED, Optional.empty()), 1));
        assertTrue(last().message(), last().message().contains("has no image encoder"));
    }

    @Test
    public void readingThePictureIsAPhaseOfItsOwn() {
        State.Builder drawing = State.FIRST.next().begin(CAT).drawing(now -> now.in(Phase.ENCODE_PICTURE));
        said(new GenerateContent(drawing.build()).status(), R.string.phase_encode_picture);
    }

    private Phrase strength(String plan, double strength) {
        return OriginalContent.strength(plan(plan), strength);
    }

    private Plan plan(String name) {
        return last().bundle().get().plans().get(name);
    }

    private OriginalContent content() {
        return new OriginalContent(last());
    }

    private void add(TinyBundle bundle) {
        session.add(bundle::zip, "tiny.zip");
        assertTrue(last().message(), last().is(State.Kind.DONE, State.Task.IMPORT));
    }

    private State last() {
        return states.get(states.size() - 1);
    }

    private static void said(Phrase phrase, int id, Object... values) {
        assertEquals(id, phrase.id());
        assertArrayEquals(values, phrase.values());
    }

    private static Picture picture(int colour) {
        return new Picture(2, 2, new int[] {colour, colour, colour, colour});
    }

    /** An installation that brings no bundle. */
    private static final class NoAsset implements BundleStore.Packed {
        @Override
        public String version() {
            return "1";
        }

        @Override
        public Optional<InputStream> open() {
            return Optional.empty();
        }
    }
}
